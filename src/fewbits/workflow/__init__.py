"""The verbs: one public function per command, same names, same options. Nothing here prints.

Reading order: source (what model is it), calibrate (float statistics, once), quantized (a precision derived from them),
scoring, then the verbs: prepare, inspect, quantize, evaluate, verify.
"""
