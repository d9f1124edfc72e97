package rest

import (
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/store"
	"github.com/minirun/minirun/orchestrate/view"
)

// wantsTable tells whether the client would rather have a table, as kubectl get
// does.
func (q *request) wantsTable() bool {
	for a := range strings.SplitSeq(q.Header.Get("Accept"), ",") {
		if strings.Contains(a, "as=Table") && strings.Contains(a, "v=v1;") {
			return true
		}
	}
	return false
}

// table is objects as rows.
func (s *Server) table(q *request, meta metav1.ListMeta, titles bool, items ...store.Object) (*metav1.Table, error) {
	t := view.NewTable(q.kind, meta)
	if !titles {
		t.ColumnDefinitions = nil
	}
	now, include := time.Now(), q.URL.Query().Get("includeObject")
	for _, obj := range items {
		if include == "Object" {
			obj = typed(q.kind, obj)
		}
		row, err := view.Row(q.kind, obj, now, include)
		if err != nil {
			return nil, err
		}
		t.Rows = append(t.Rows, row)
	}
	return t, nil
}
