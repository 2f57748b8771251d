"""The application: image classifiers on MNIST and data sets like it, built on hydrasweep's API."""
