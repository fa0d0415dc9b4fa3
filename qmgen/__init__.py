"""From a list of molecules to a checked quantum-chemistry training set.

Importing the package does nothing; import the room you need: `qmgen.molecules`, `qmgen.dft`,
`qmgen.dataset`, `qmgen.generate`, `qmgen.training`.
"""
