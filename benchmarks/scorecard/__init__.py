"""The scorecard: defects of known kinds are planted in a month of flights, and what catches each of them is counted."""
