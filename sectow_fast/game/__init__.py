"""What SecTOW is: two roles, their rewards, two monitors, the filter, the evaluation."""
