// Descriptors of 150 x 150 RGB images in face-api itself, on TensorFlow.js' CPU backend.
// node face_api.js FOLDER IMAGES: FOLDER has node_modules, IMAGES raw bytes; prints JSON.
const fs = require('fs')
const path = require('path')
const Module = require('module')

const [folder, file] = process.argv.slice(2)
const modules = path.resolve(folder, 'node_modules')
const resolve = Module._resolveFilename
// The package asks for tfjs-node, which needs native code; tfjs alone computes the same.
Module._resolveFilename = (name, ...rest) =>
  name === '@tensorflow/tfjs-node' ? require.resolve(path.join(modules, '@tensorflow/tfjs')) : resolve(name, ...rest)
const root = path.join(modules, '@vladmandic/face-api')
const faceapi = require(path.join(root, 'dist/face-api.node.js'))

async function main() {
  await faceapi.tf.setBackend('cpu')
  const net = faceapi.nets.faceRecognitionNet
  await net.loadFromDisk(path.join(root, 'model'))
  const bytes = fs.readFileSync(file)
  const rows = []
  for (let i = 0; i < bytes.length; i += 67500) {
    const image = new Uint8Array(bytes.subarray(i, i + 67500))
    const tensor = faceapi.tf.tensor3d(image, [150, 150, 3], 'int32')
    rows.push(Array.from(await net.computeFaceDescriptor(tensor)))
  }
  console.log(JSON.stringify(rows))
}
main()
