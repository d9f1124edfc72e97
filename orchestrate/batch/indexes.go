package batch

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// indexes is a set of completion indexes.
type indexes map[int]bool

// parseIndexes reads "1,3-5,7"; what is not below n is left out.
func parseIndexes(text string, n int) (indexes, error) {
	set := indexes{}
	if text == "" {
		return set, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(part, "-")
		if !ranged {
			to = from
		}
		a, err1 := strconv.Atoi(from)
		b, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || a < 0 || b < a {
			return nil, fmt.Errorf("indexes %q: %q is neither a number nor a range", text, part)
		}
		for i := a; i <= b && i < n; i++ {
			set[i] = true
		}
	}
	return set, nil
}

// CheckIndexes tells what is wrong with a list like "1,3-5,7".
func CheckIndexes(text string) error {
	_, err := parseIndexes(text, 0)
	return err
}

func (s indexes) String() string {
	var all []int
	for i := range s {
		all = append(all, i)
	}
	slices.Sort(all)
	var b strings.Builder
	for i := 0; i < len(all); {
		j := i
		for j+1 < len(all) && all[j+1] == all[j]+1 {
			j++
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		switch b.WriteString(strconv.Itoa(all[i])); {
		case j == i+1:
			fmt.Fprintf(&b, ",%d", all[j])
		case j > i:
			fmt.Fprintf(&b, "-%d", all[j])
		}
		i = j + 1
	}
	return b.String()
}

// indexOf is the completion index of a pod; -1 if it has none.
func indexOf(p *corev1.Pod) int {
	i, err := strconv.Atoi(p.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || i < 0 {
		return -1
	}
	return i
}

// failures is how often an index had failed before that pod.
func failures(p *corev1.Pod) int {
	n, err := strconv.Atoi(p.Annotations[batchv1.JobIndexFailureCountAnnotation])
	if err != nil || n < 0 {
		return 0
	}
	return n
}
