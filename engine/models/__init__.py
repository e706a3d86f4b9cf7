"""Observers and students: a zoo of small-image networks below 128 px, torchvision's and timm's from there on."""
