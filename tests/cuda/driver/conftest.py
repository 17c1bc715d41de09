"""Options of the run inside; see launches.py."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kernels", default="", help="folder of kernels built against the shim")
