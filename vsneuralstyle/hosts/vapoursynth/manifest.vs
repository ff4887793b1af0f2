[VapourSynth Manifest V1]
vsneuralstyle
