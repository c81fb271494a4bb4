"""The image that components run in, and the one decorator that all of them use.

A component's body is glue of a few lines: it imports the step's plain function from `headway`, which the image holds,
and calls it. `kfp` ships only that body, so nothing is installed when a step starts, and the compiled text is the same
on every machine. `headway compile --image` puts a digest in the place of the tag; a release refuses to go out without.
"""

import functools

from kfp import dsl

IMAGE = "headway-python:0.1.0"
"""The image of every component (components/Containerfile); a tag for development, replaced by a digest in a release."""

component = functools.partial(dsl.component, base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
"""`@component`: a KFP component that runs in Headway's image with nothing installed at start."""
