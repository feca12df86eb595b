"""Names of the files in an output folder."""

ARTIFACT = "model.qdq.onnx"
FLOAT = "model.float.onnx"
ENCODINGS = "model.encodings.json"
RECORD = "record.json"
SAMPLES = "samples.npz"
CERTIFICATE = "certificate.json"
HTP_CERTIFICATE = "certificate.qnn-htp.json"
REPORT = "report.html"
DATA_SUFFIX = ".data"
"""Appended to a model's name where its weights live in a file beside it."""

SHIPPED = (
    ARTIFACT,
    ARTIFACT + DATA_SUFFIX,
    FLOAT,
    FLOAT + DATA_SUFFIX,
    ENCODINGS,
    SAMPLES,
)
"""The files that a record vouches for by their hashes."""

KNOWN = (*SHIPPED, REPORT, CERTIFICATE, HTP_CERTIFICATE, RECORD)
"""Every file that fewbits writes into an output folder; the record comes last, so that it vouches for the others."""
