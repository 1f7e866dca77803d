"""What tests of services need, shipped with the code it stands in for."""
