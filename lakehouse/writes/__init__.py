"""The computation of each write mode: newest rows, versions, differences, rules, replay."""
