"""Run one model in OpenVINO, in a process of its own: `python -m fewbits.deployment.openvino_worker MODEL`.

Feeds come on stdin and answers go to stdout (see `frames`). Floats stay float32: without the hint some processors would
compute them in bfloat16.
"""

import os
import sys

from fewbits.artifact.samples import Arrays
from fewbits.deployment.frames import answer_feeds, take_stdout


def main() -> int:
    """Serve the model named on the command line; return the exit code."""
    out = take_stdout()
    try:
        import openvino

        compiled = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def predict(feeds: Arrays) -> Arrays:
            found = compiled(dict(feeds))
            return {output.any_name: found[output] for output in compiled.outputs}

        answer_feeds(predict, out)
    except Exception as error:  # whatever the runtime raises goes to the process that asked
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        sys.stderr.write(f"{lines[-1] if lines else type(error).__name__}\n")
        return 2
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
