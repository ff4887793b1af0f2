"""What training and evaluation share: pictures, optical flow of real clips by RAFT and its files,
traceable pixels, VGG-19's features. Neither of the two imports the other.
"""
