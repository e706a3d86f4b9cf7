"""Speed of the stages against the bare network, measured on this machine; `edc bench` shows it.

Bare is the same network on the same tensors in the same precision and memory format, with cross-entropy: forward and backward to the
pixels (synthesise), forward (statistics, relabel) or the whole training step (evaluate). What is held against it is the stages' own code.
"""
