"""Compiled kernels on disk: nothing is compiled twice, and processes that compile at once do not mix up their files."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

TRAIN = """
import numpy as np, nsim
from nsim import losses, nn
net = nn.Sequential(nn.Dense(5, 4, nsim.LIF()), nn.Dense(4, 3, nsim.LI(reduce="sum")))
s = nsim.Spikes.from_dense(np.ones((2, 3, 5)), 1e-3)
losses.cross_entropy(net(s), np.zeros(2, int)).backward()
picture = nsim.Spikes.from_dense(np.ones((2, 3, 4, 4, 1)), 1e-3)
layer = nn.Conv2d(1, 2, 3, nsim.LIF(), size=4)
layer(picture).counts().sum().backward()
"""

# As a sweep is made for each model: one function of one file, told apart by what it closes over.
MADE = """
import sys, numpy as np
from nsim.kernels.jit import kernel
def make(factor):
    @kernel
    def scale(x):
        for i in range(x.size):
            x[i] *= factor
    return scale
print("ready", flush=True)
for line in sys.stdin:
    x = np.ones(3)
    make(int(line))(x)
    print(int(x[0]), flush=True)
"""


def run(*arguments, **environment):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_second_process_compiles_nothing():
    """Something random in the key of a kernel would cost seconds each time."""
    _, second = (run("-c", TRAIN, NUMBA_DEBUG_CACHE="1") for _ in range(2))
    assert "data loaded" in second and "data saved" not in second, second


PRINTING = """
import numba, numpy as np, nsim
from nsim.neurons import Equations
@numba.vectorize(cache=True)
def half(x):
    return x / 2
class Printing(nsim.LIF):
    def equations(self, one):
        step, *others = super().equations(one)
        def printing(state, s, x, p):
            print("drive", half(x))
            return step(state, s, x, p)
        return Equations.of(printing, *others)
layer = nsim.nn.Dense(1, 1, Printing())
layer.weight.data[...] = 4
layer.run(nsim.Spikes.from_dense(np.ones((1, 2, 1)), 1e-3))
"""


def test_a_model_may_print_and_call_what_is_kept_on_disk(tmp_path):
    """It needs what helpers of our own are compiled without; from the disk cache too. Before the two steps Python looks
    at the equations."""
    (tmp_path / "printing.py").write_text(PRINTING)
    for _ in range(2):
        printed = run(str(tmp_path / "printing.py"), NUMBA_CACHE_DIR=str(tmp_path / "cache"))
        assert printed.splitlines()[-2:] == ["drive 2.0", "drive 2.0"]


def test_processes_that_compile_at_once_keep_their_own_code(tmp_path):
    """Numba's own cache fails here: it gives specialisations of one function the same file."""
    (tmp_path / "made.py").write_text(MADE)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    started = [subprocess.Popen([sys.executable, "made.py"], cwd=tmp_path, env=environment, **pipes) for _ in range(4)]
    try:
        assert all(process.stdout.readline() == "ready\n" for process in started)
        for turn in range(5):
            factors = [10 * turn + i for i in range(len(started))]
            for process, factor in zip(started, factors, strict=True):
                process.stdin.write(f"{factor}\n")
            assert [int(process.stdout.readline()) for process in started] == factors
        # Read back, by a process that compiled another one.
        for process in started:
            for factor in (f for turn in range(5) for f in range(10 * turn, 10 * turn + len(started))):
                process.stdin.write(f"{factor}\n")
                assert int(process.stdout.readline()) == factor
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_what_two_processes_compile_has_different_names(tmp_path):
    """A process may load the helpers of both models, and the linker takes the first of a name for each."""
    source = tmp_path / "one.py"
    source.write_text(
        "import numpy as np\nfrom nsim.kernels.jit import kernel\n"
        "@kernel\ndef scale(x):\n    x[0] *= 2\n"
        "scale(np.ones(1))\nprint(*(code.fndesc.mangled_name for code in scale.overloads.values()))\n"
    )
    one, other = (run(source, NUMBA_CACHE_DIR=str(tmp_path / cache), PYTHONHASHSEED="0") for cache in "ab")
    assert "scale" in one and one != other


def test_a_changed_source_or_signature_compiles_anew(tmp_path):
    source = tmp_path / "one.py"
    for factor in (2, 3):
        source.write_text(
            "import numpy as np\nfrom nsim.kernels.jit import kernel\n"
            f"@kernel\ndef scale(x):\n    for i in range(x.size):\n        x[i] *= {factor}\n"
            "for kind in (float, int):\n    x = np.ones(1, kind)\n    scale(x)\n    print(x[0])\n"
        )
        assert run(source, NUMBA_CACHE_DIR=str(tmp_path / "cache")) == f"{factor}.0\n{factor}\n"


def test_a_changed_helper_of_another_file_compiles_anew(tmp_path):
    """As a user's model in a module of its own calls one, and a helper behind that, with a tuple or an array."""
    (tmp_path / "main.py").write_text(
        "import numpy as np, near\nfrom nsim.kernels.jit import kernel\n"
        "def make(step):\n    @kernel\n    def scale(x):\n        x[0] = step(x[0])\n    return scale\n"
        "x = np.ones(1)\nmake(near.step)(x)\nprint(x[0])\n"
    )
    jitable = "from numba.extending import register_jitable\n"
    nested, array = ("(1, ({},))", "[1][0]"), ("np.array([[{}]])", "[0, 0]")
    changes = (
        (1, 2, 1, nested),
        (3, 2, 1, nested),
        (3, 4, 1, nested),
        (3, 4, 2, nested),
        (3, 4, 2, array),
        (3, 2, 2, array),
    )
    for plus, factor, power, (known, place) in changes:
        (tmp_path / "near.py").write_text(
            f"{jitable}import far\n@register_jitable\ndef step(x):\n    return far.times(x) + {plus}\n"
        )
        (tmp_path / "far.py").write_text(
            f"{jitable}import numpy as np\nFACTOR = {known.format(factor)}\n"
            f"@register_jitable\ndef times(x):\n    return FACTOR{place} ** {power} * x\n"
        )
        environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
        assert float(run(tmp_path / "main.py", **environment)) == factor**power + plus
