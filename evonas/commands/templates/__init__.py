"""What ``evonas new`` copies: real files, checked like the others, with their names replaced.

And the recipe that ``evonas init`` fills in.
"""
