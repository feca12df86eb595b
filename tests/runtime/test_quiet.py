import subprocess
import sys

CODE = """
import ctypes
from fewbits.runtime.quiet import native_output_dropped
print("ours")
with native_output_dropped():
    ctypes.CDLL(None).puts(b"native")
print("ours again")
"""


def test_native_code_prints_nowhere_and_python_to_stdout():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout == "ours\nours again\n"
    assert not done.stderr


def test_a_closed_stdout_does_no_harm():
    code = "import os; os.close(1)\nfrom fewbits.runtime.quiet import native_output_dropped\n"
    code += "with native_output_dropped():\n    import sys; sys.stderr.write('done')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "done" in done.stderr
