"""The scorecard: known defects are planted in a month of flights, and the checks that catch them are counted."""
