"""What ``rlsd benchmark`` measures: a module each, over the timing of pairs that all share."""
