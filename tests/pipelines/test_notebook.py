"""The notebooks run from top to bottom, and show what they promise."""

import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from headway.pipelines.notebook import ClusterRun, submit

from fake_kfp import FakeKfp  # type: ignore[import-not-found]  # isort: skip
