"""Shared by all tests: the example's own neuron model is registered, so that the tests over the registry cover it."""

import importlib.util
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent / "examples" / "custom_neuron.py"

if "custom_neuron" not in sys.modules:
    spec = importlib.util.spec_from_file_location("custom_neuron", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["custom_neuron"] = module
    spec.loader.exec_module(module)
