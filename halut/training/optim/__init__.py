"""Optimizers and learning rate schedules by the names of torch and timm."""
