"""The guards that are known, one file each: how each is asked, and how its answer is read.

Each file names its `FORMAT`; `judges/__init__.py` registers them. A guard was trained on its
published prompt, so the prompts here are copies of those; the tests hold the copies by digest.
"""
