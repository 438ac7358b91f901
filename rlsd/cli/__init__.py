"""The command line: ``rlsd train`` and its sisters. Everything above the library, nothing the library needs."""
