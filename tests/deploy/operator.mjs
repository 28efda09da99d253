// Check objects of the Prometheus operator with the validators that are generated from the operator's own types.
//
//   node operator.mjs MODELS < objects.json      prints a list of problems as JSON
//
// The validators accept keys that they don't know. So each object is given to them behind proxies that record which keys
// they read: what they never read is unknown, and the API server would drop it.

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const models = `${process.argv[2]}/node_modules/@kubernetes-models/prometheus-operator/monitoring.coreos.com`;

function watched(value, path, unread) {
  if (value === null || typeof value !== "object") return value;
  const inner = {};
  for (const key of Object.keys(value)) {
    inner[key] = watched(value[key], `${path}/${key}`, unread);
    if (!Array.isArray(value)) unread.add(`${path}/${key}`);
  }
  return new Proxy(Array.isArray(value) ? Object.values(inner) : inner, {
    get: (target, key) => (unread.delete(`${path}/${String(key)}`), target[key]),
    ownKeys: (target) => (Object.keys(value).forEach((key) => unread.delete(`${path}/${key}`)), Reflect.ownKeys(target)),
  });
}

async function problems(object) {
  const [group, version] = object.apiVersion.split("/");
  if (group !== "monitoring.coreos.com") throw new Error(`not an object of the operator: ${object.apiVersion}`);
  const { [object.kind]: Model } = await import(pathToFileURL(`${models}/${version}/${object.kind}.js`).href);
  const name = `${object.kind} ${object.metadata.name}`;
  try {
    new Model(object).validate();
  } catch (error) {
    return [`${name}: ${error.message}`];
  }
  const unread = new Set();
  const spec = watched(object, "", unread);
  Model.prototype.validate.call(Object.assign(Object.create(Model.prototype), spec));
  return [...unread].filter((path) => path.startsWith("/spec/")).map((path) => `${name}: unknown key ${path}`);
}

const objects = JSON.parse(readFileSync(0, "utf8"));
const found = [];
for (const object of objects) found.push(...(await problems(object)));
console.log(JSON.stringify(found));
