package view

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Rows prints rows in columns, as wide as anything that was printed before.
type Rows struct {
	W io.Writer
	// Wide shows all columns.
	Wide, NoHeaders bool
	// Prefix stands before each name, as in pod/web.
	Prefix string
	// Extra are columns in front and behind that come from the object's metadata;
	// Label has one for each label.
	Namespace, Labels bool
	Label             []string

	columns []metav1.TableColumnDefinition
	widths  []int
	titled  bool
}

// Clean keeps what is in an object from moving the cursor, and in one line.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

// Print prints a table. meta gives the metadata of a row.
func (r *Rows) Print(t *metav1.Table, meta func(row *metav1.TableRow) (namespace string, labels map[string]string)) error {
	if len(t.ColumnDefinitions) > 0 {
		r.columns = t.ColumnDefinitions
	}
	var lines [][]string
	if !r.titled && !r.NoHeaders {
		var head []string
		if r.Namespace {
			head = append(head, "NAMESPACE")
		}
		for _, c := range r.columns {
			if c.Priority == 0 || r.Wide {
				head = append(head, strings.ToUpper(c.Name))
			}
		}
		for _, l := range r.Label {
			head = append(head, strings.ToUpper(l[strings.LastIndexByte(l, '/')+1:]))
		}
		if r.Labels {
			head = append(head, "LABELS")
		}
		lines = append(lines, head)
	}
	r.titled = true
	for i := range t.Rows {
		row := &t.Rows[i]
		var line []string
		namespace, labels := meta(row)
		if r.Namespace {
			line = append(line, namespace)
		}
		for j, c := range r.columns {
			if j >= len(row.Cells) || c.Priority > 0 && !r.Wide {
				continue
			}
			text := ""
			if v := row.Cells[j]; v != nil {
				text = Clean(fmt.Sprint(v))
			}
			if j == 0 {
				text = r.Prefix + text
			}
			line = append(line, text)
		}
		for _, l := range r.Label {
			line = append(line, Clean(labels[l]))
		}
		if r.Labels {
			var list []string
			for _, k := range sortedKeys(labels) {
				list = append(list, k+"="+labels[k])
			}
			line = append(line, or(strings.Join(list, ","), none))
		}
		lines = append(lines, line)
	}
	return r.lines(lines)
}

func (r *Rows) lines(lines [][]string) error {
	for _, l := range lines {
		for i, c := range l {
			if i >= len(r.widths) {
				r.widths = append(r.widths, 3)
			}
			r.widths[i] = max(r.widths[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for _, l := range lines {
		for i, c := range l {
			b.WriteString(c)
			if i < len(l)-1 {
				b.WriteString(strings.Repeat(" ", r.widths[i]-utf8.RuneCountInString(c)+3))
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(r.W, b.String())
	return err
}

// Lines prints rows without a table of the server.
func (r *Rows) Lines(lines ...[]string) error { return r.lines(lines) }
