export { decodeImage } from "./decode.js";
export { centerCrop, type Image, image, withChannels } from "./image.js";
export { imageTensor, type NormalizeOptions, processImages } from "./processor.js";
export { type Resampling, resizeImage } from "./resize.js";
