"""Serving on one machine: supervised server processes behind Envoy, with no Docker and no Kubernetes.

platform.py      the protocol of platforms, carried out: variants, routes, addresses, readings
lifecycle.py     up and down
status.py        what shall run, and what does
state.py         the desired state on disk, and its lock
installation.py  folders, programs and sockets of one home; making what runs agree with the state
supervisor.py    supervisord: its files, and talking to it
envoy.py         Envoy's files, and whether it took them
xds.py           Envoy's configuration, rendered from the state
auth.py          who may call
config.py        limits and replicas
bundles.py       bundles through the trust gate
probe.py         asking a server process
measure.py       counts since a cursor
ports.py         free ports, and who has a taken one
unix_http.py     HTTP over a unix socket
"""
