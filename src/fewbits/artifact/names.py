"""Names of the files in an output folder."""

ARTIFACT = "model.qdq.onnx"
FLOAT = "model.float.onnx"
REFERENCE = "model.reference.onnx"
"""The float model that scores and drops are taken against; there only where model.float.onnx has other weights."""
UNROUNDED = "model.unrounded.onnx"
"""The float model that pinned weights were rounded from; there only where its channels have other sizes than before."""
ENCODINGS = "model.encodings.json"
RECORD = "record.json"
SAMPLES = "samples.npz"
CERTIFICATE = "certificate.json"
PLACE_CERTIFICATES = {"qnn-htp": "certificate.qnn-htp.json", "openvino": "certificate.openvino.json"}
"""Place -> what `verify --on` writes there."""
HUB = "hub.json"
"""Jobs on Qualcomm AI Hub, by the hashes of what was sent; it outlives the artifact, since jobs cannot be had again."""
REPORT = "report.html"
COMMANDS = "convert.txt"
"""Command lines of Qualcomm's converters; no record vouches for it, since users write their chip and sizes into it."""
DATA_SUFFIX = ".data"
"""Appended to a model's name where its weights live in a file beside it."""

SHIPPED = (
    ARTIFACT,
    ARTIFACT + DATA_SUFFIX,
    FLOAT,
    FLOAT + DATA_SUFFIX,
    REFERENCE,
    REFERENCE + DATA_SUFFIX,
    UNROUNDED,
    UNROUNDED + DATA_SUFFIX,
    ENCODINGS,
    SAMPLES,
)
"""The files that a record vouches for by their hashes."""

KNOWN = (*SHIPPED, COMMANDS, REPORT, CERTIFICATE, *PLACE_CERTIFICATES.values(), RECORD)
"""What a new run replaces in an output folder; the record comes last, so that it vouches for the others."""
