"""The guards that are known, one file each: how each is asked, and how its answer is read.

Each file names its `FORMAT`; `formats.py` registers them. The prompts are the published ones, word
for word, since a guard was trained on them; the tests hold them.
"""
