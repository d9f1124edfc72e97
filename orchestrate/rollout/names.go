package rollout

import (
	"encoding/binary"
	"encoding/json"
	"hash/fnv"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// HashLabel marks sets, their selectors and their pods with the template they
// are made from.
const HashLabel = "pod-template-hash"

// alphabet are the letters of generated names: without vowels and 0, 1 and 3,
// so that no words come out.
const alphabet = "bcdfghjklmnpqrstvwxz2456789"

// TemplateHash is the part of a set's name that stands for its template.
// Collisions is how many names were taken by other templates before.
func TemplateHash(t *corev1.PodTemplateSpec, collisions int32) string {
	h := fnv.New32a()
	// Keys of maps come sorted, so equal templates have equal text.
	text, err := json.Marshal(withoutHash(t))
	if err != nil {
		panic(err) // plain data: no channels, no cycles
	}
	h.Write(text)
	if collisions > 0 {
		h.Write(binary.LittleEndian.AppendUint32(nil, uint32(collisions)))
	}
	return letters(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// letters replaces each character by one of the alphabet.
func letters(s string) string {
	out := []byte(s)
	for i, c := range out {
		out[i] = alphabet[int(c)%len(alphabet)]
	}
	return string(out)
}

// maxName is the longest name of an object.
const maxName = 253

// SetName is the name of the set with that hash.
func SetName(deployment, hash string) string {
	if most := maxName - 1 - len(hash); len(deployment) > most {
		deployment = deployment[:most]
	}
	return deployment + "-" + hash
}

// PodName is the name of a pod of a set; random tells pods apart.
func PodName(set string, random uint64) string {
	var suffix [5]byte
	for i := range suffix {
		suffix[i] = alphabet[random%uint64(len(alphabet))]
		random /= uint64(len(alphabet))
	}
	// Names of pods become host names, which have 63 characters; what is cut
	// there is this suffix, so it is not: the set's name is.
	if most := maxName - 1 - len(suffix); len(set) > most {
		set = set[:most]
	}
	return set + "-" + string(suffix[:])
}

// SameTemplate tells whether two templates make the same pods. Quantities are
// compared by value, nil and empty are equal, the hash is not looked at.
func SameTemplate(a, b *corev1.PodTemplateSpec) bool {
	return equality.Semantic.DeepEqual(withoutHash(a), withoutHash(b))
}

// withoutHash is a template as the user wrote it. The rest is shared.
func withoutHash(t *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
	c := *t
	if _, ok := t.Labels[HashLabel]; ok {
		c.Labels = make(map[string]string, len(t.Labels))
		for k, v := range t.Labels {
			if k != HashLabel {
				c.Labels[k] = v
			}
		}
	}
	return &c
}
