"""The words for how a set of images becomes an accuracy; `engine.project.evaluations` makes trainings of them.

The label regimes are four different tasks, so their results never share a column: `hard`, `fixed-soft` (one soft label an image),
`epoch-soft` (stored for every epoch's views) and `online` (the observers are asked while the student trains).
"""

PUBLISHED = "published"  # a method's own protocol; beside it stands the common one of common.toml
HARD = "hard"
SETS = ("condensed", "random", "noise", "initial", "easy", "medium", "herding", "k-center", "equal-bytes", "full")  # as tables list them
