import subprocess
import sys

CODE = """
import ctypes
from fewbits.runtime.quiet import native_output_to_stderr
print("ours")
with native_output_to_stderr():
    ctypes.CDLL(None).puts(b"native")
print("ours again")
"""


def test_native_code_prints_to_stderr_and_python_to_stdout():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout == "ours\nours again\n"
    assert done.stderr == "native\n"


def test_a_closed_stdout_does_no_harm():
    code = "import os; os.close(1)\nfrom fewbits.runtime.quiet import native_output_to_stderr\n"
    code += "with native_output_to_stderr():\n    import sys; sys.stderr.write('done')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "done" in done.stderr
