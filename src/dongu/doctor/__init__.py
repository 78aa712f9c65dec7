"""The data doctor: what is wrong with a data set, what it does to the result, and what to do. It needs no torch."""
