"""The reference model of I14: what commissions should be, computed from scratch, one sale at a time.

`told.py` reads the stored events, `model.py` says what follows from them. Both are written from the
provider's documentation and the rules of the project, not from its code; README.md says what they cover.
Sales that anything else touches are left out, and how many are compared is printed.
"""
