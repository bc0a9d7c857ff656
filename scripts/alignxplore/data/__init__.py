"""From raw AlignX and P-SOUPS files to training examples and benchmark cases."""
