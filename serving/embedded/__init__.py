"""Serving on one machine: supervised server processes behind Envoy, with no Docker and no Kubernetes.

platform.py      the protocol of platforms, carried out: variants, routes, addresses, readings
condition.py     how far a variant has come
lifecycle.py     up and down
status.py        what shall run, and what does
state.py         the desired state on disk, and its lock
installation.py  folders, programs and sockets of one home; making what runs agree with the state
supervisor.py    supervisord: its files, and talking to it
envoy.py         Envoy's files, and whether it took them
routes.py        who gets which variant, as Envoy's routes
listener.py      Envoy's listener and what it says by itself
xds.py           Envoy's other documents, and what all of them share
auth.py          who may call
config.py        limits and replicas
bundles.py       bundles through the trust gate
probe.py         asking a server process
measure.py       counts since a cursor
ports.py         free ports, and who has a taken one
unix_http.py     HTTP over a unix socket
"""
