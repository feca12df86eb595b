"""Files out: the output folder, the encodings file, the stored samples."""
