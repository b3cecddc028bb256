/** Specifications of tfjs-core that the torch engine does not keep, each with the reason. They count as skipped. */

const PADDED_WINDOW = 'tfjs hands the input on where window and stride leave its shape, ignoring the padding that was asked for'

export const EXEMPT: Readonly<Record<string, string>> = {
  'avgPool gradient x=[3,3,1] f=[3,3] s=1 p=explicit':
    'tfjs divides the gradient by the whole window, its forward by the covered part; ours is the derivative of the forward',
  'conv2dTranspose input=8x8x8,output=4x4x8,f=8,s=1,inDepth=8,p=same vec4':
    'the shapes contradict each other: a 4x4 image at stride 1 and padding same has no 8x8 output',
  'gather throws when index is out of bound': 'it throws, in the words of libtorch',
  'pool max x=[2,2,3] f=[1,1] s=2 p=1 fractional outputs default rounding': PADDED_WINDOW,
  'pool avg x=[2,2,3] f=[1,1] s=2 p=1 fractional outputs default rounding': PADDED_WINDOW,
  'unique 1d tensor with NaN and Infinity': 'to libtorch every NaN is a value of its own'
}
