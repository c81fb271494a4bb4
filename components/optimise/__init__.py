"""Optimise: choose the model file that is fastest here and still gives the trained model's answers.

    skops, torch    the file that training wrote: the reference, and what stays when nothing else holds
    onnx            the same as an ONNX graph, which must agree on real rows, gaps, unseen categories and outliers
    onnx-int8       the graph with its wide layers in 8 bits, for as long as the metric loses no more than it may

An int8 layer scales its input by the largest value of a call, so a row's answer depends a little on the rows it is
asked for with. Its input is cut to the range that real rows have there, so that no outlier takes the digits of the rows
beside it; the files are compared at every batch size that the section names, and the worst answer counts.
"""
