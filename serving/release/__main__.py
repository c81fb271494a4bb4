"""`python -m headway.serving.release`: drive every active release."""

from headway.serving.release.driver import drive

if __name__ == "__main__":
    drive()
