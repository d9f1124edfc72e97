package rest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
)

// TestManyWatches: 50 clients watch while objects change as fast as they can be
// written, and every one of them sees every change, in order.
func TestManyWatches(t *testing.T) {
	const clients, changes = 50, 200
	h := newHost(t)
	const path = "/api/v1/namespaces/default/configmaps"
	h.do("POST", path, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"n"},"data":{"n":"0"}}`, 201)
	var ready, done sync.WaitGroup
	for i := range clients {
		ready.Add(1)
		done.Go(func() {
			r, err := http.NewRequestWithContext(t.Context(), "GET", "http://minirund"+path+"?watch=true", nil)
			if err != nil {
				t.Error(err)
			}
			resp, err := h.Do(r)
			if err != nil {
				ready.Done()
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			d := json.NewDecoder(resp.Body)
			for n := 0; n <= changes; n++ {
				var e struct {
					Type   string
					Object struct{ Data map[string]string }
				}
				err := d.Decode(&e)
				if n == 0 {
					ready.Done() // it has what there is, and waits for what comes
				}
				if err != nil || e.Object.Data["n"] != fmt.Sprint(n) {
					t.Errorf("client %d, change %d: %+v, %v", i, n, e, err)
					return
				}
			}
		})
	}
	ready.Wait()
	for n := 1; n <= changes; n++ {
		h.do("PUT", path+"/n", fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"n"},"data":{"n":"%d"}}`, n), 200)
	}
	done.Wait()
}
