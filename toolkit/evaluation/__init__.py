"""What a result is worth: metrics, trivial baselines and the protocol that is printed beside every number.

A module here takes arrays and returns frozen results; nothing reads or writes files. The numpy part never imports
torch, and scikit-learn only inside the functions that need it.
"""
