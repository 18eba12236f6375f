"""`make smol`: a pretrained model of 135 M parameters through the whole tug-of-war on a laptop."""
