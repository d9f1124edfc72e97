// Package merge puts two versions of an object together as Kubernetes does: a
// strategic merge patch, and a configuration that is applied.
//
// Objects are documents as encoding/json gives them, with numbers as
// json.Number. What a list is merged by comes from the tags patchStrategy and
// patchMergeKey of the types in k8s.io/api.
package merge
