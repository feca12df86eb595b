"""Property tests here have no deadline per example: a busy machine is not a failure."""

from hypothesis import settings

settings.register_profile("fewbits", deadline=None)
settings.load_profile("fewbits")
