#!/bin/sh
# Install each peer tool into a virtual environment of its own under benchmarks/peers/.venvs (ignored by git).
# usage: benchmarks/peers/setup.sh [ort] [aimet] [nncf] [aimettorch]      (default: all; aimet takes about 6 GB)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
constraints="$here/../../constraints.txt"
for peer in "${@:-ort aimet nncf aimettorch}"; do
  for name in $peer; do
    case $name in
      ort) packages="onnxruntime==1.32.0 onnx sympy pillow" ;;
      aimet) packages="aimet-onnx==2.42.0 pillow" ;;
      nncf) packages="nncf==3.4.0 onnx onnxruntime==1.32.0 pillow" ;;
      aimettorch) packages="aimet-torch==2.42.0 onnxruntime==1.32.0 pillow" ;;
      *) echo "unknown peer '$name': choose ort, aimet, nncf or aimettorch" >&2; exit 2 ;;
    esac
    [ -d "$here/.venvs/$name" ] || "${PYTHON:-python3}" -m venv "$here/.venvs/$name"
    # shellcheck disable=SC2086
    "$here/.venvs/$name/bin/pip" install -q -c "$constraints" $packages
    echo "$name ready: $here/.venvs/$name/bin/python"
  done
done
