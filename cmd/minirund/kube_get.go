package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/minirun/minirun/orchestrate/api"
	"github.com/minirun/minirun/orchestrate/client"
	"github.com/minirun/minirun/orchestrate/view"
	"github.com/urfave/cli/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func kubeGet(u *ui) *cli.Command {
	return kubeAction(u, &cli.Command{
		Name: "get", Usage: "list objects, or print them", ArgsUsage: "KIND[,KIND...] [NAME...] | KIND/NAME...",
		Flags: []cli.Flag{
			namespaceFlag(), allNamespacesFlag(), selectorFlag(), fieldSelectorFlag(),
			outputFlag("`FORMAT` is wide, yaml, json, name, jsonpath=TEMPLATE or custom-columns=TITLE:PATH,..."),
			&cli.StringFlag{Name: "format", Value: "table", Usage: "`FORMAT` is table or json: an array of objects"},
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "go on with what changes"},
			&cli.StringFlag{Name: "sort-by", Usage: "in the order of what stands at `PATH`, as in .metadata.creationTimestamp"},
			&cli.StringSliceFlag{Name: "label-columns", Aliases: []string{"L"}, Usage: "a column with the value of `LABEL`. Repeatable, or with commas"},
			&cli.BoolFlag{Name: "show-labels", Usage: "a column with the labels"},
			&cli.BoolFlag{Name: "no-headers", Usage: "no line with the names of the columns"},
			&cli.BoolFlag{Name: "ignore-not-found", Usage: "an object that does not exist is no error"},
		},
	}, 1, -1, (*kube).get)
}

func (k *kube) get() error {
	refs, err := k.refs(k.c.Args().Slice())
	if err != nil {
		return err
	}
	output := k.c.String("output")
	switch f := k.c.String("format"); {
	case f == "json":
		output = "array"
	case f != "table":
		return k.usage("unknown format %q, want table or json", f)
	}
	template, isPath := strings.CutPrefix(output, "jsonpath=")
	own, isOwn := strings.CutPrefix(output, "custom-columns=")
	if !isPath && !isOwn && !slices.Contains([]string{"", "wide", "yaml", "json", "name", "array"}, output) {
		return k.usage("unknown output %q, want wide, yaml, json, name, jsonpath=TEMPLATE or custom-columns=TITLE:PATH,...", output)
	}
	var columns []view.Column
	if isOwn {
		if columns, err = view.ParseColumns(own); err != nil {
			return k.usage("--output: %v", err)
		}
	}
	by, err := k.sortBy()
	if err != nil {
		return err
	}
	if k.c.Bool("watch") {
		if len(refs) != 1 || output != "" && output != "wide" || by != nil {
			return k.usage("--watch is for one kind or one object, as a table that is not sorted")
		}
		return k.watchTable(refs[0])
	}
	if output == "" || output == "wide" {
		return k.tables(refs, by)
	}
	single := len(refs) == 1 && refs[0].name != ""
	items, err := k.objects(refs)
	if err != nil && len(items) == 0 {
		return err
	}
	if single && len(items) == 0 { // --ignore-not-found
		return nil
	}
	if by != nil && !single {
		if err := view.SortBy(*by, items, func(o object) any { return map[string]any(o) }); err != nil {
			return fmt.Errorf("--sort-by: %w", err)
		}
	}
	if isOwn {
		return errors.Join(k.columns(items, columns), err)
	}
	return errors.Join(k.print(items, single, output, template), err)
}

// sortBy reads that flag; nil if there is none.
func (k *kube) sortBy() (*view.Path, error) {
	s := k.c.String("sort-by")
	if s == "" {
		return nil, nil
	}
	p, err := view.ParsePath(s)
	if err != nil {
		return nil, k.usage("--sort-by: %v", err)
	}
	return &p, nil
}

// columns prints objects in columns of the user's.
func (k *kube) columns(items []object, columns []view.Column) error {
	var lines [][]string
	if !k.c.Bool("no-headers") {
		var head []string
		for _, c := range columns {
			head = append(head, c.Title)
		}
		lines = append(lines, head)
	}
	for _, o := range items {
		line, err := view.Line(columns, map[string]any(o))
		if err != nil {
			return err
		}
		lines = append(lines, line)
	}
	return (&view.Rows{W: k.u.out}).Lines(lines...)
}

// objects gets all that was named.
func (k *kube) objects(refs []ref) (items []object, err error) {
	q := k.chosen()
	err = k.forEach(refs, func(r ref) error {
		if r.name == "" {
			l, err := k.list(r.kind, q)
			items = append(items, l...)
			return err
		}
		var o object
		err := k.api.Get(k.ctx, k.path(r), &o)
		if err == nil {
			items = append(items, o)
		}
		return k.notFound(err)
	})
	for _, o := range items {
		delete(o.metadata(), "managedFields")
	}
	return items, err
}

func (k *kube) notFound(err error) error {
	var st *client.StatusError
	if errors.As(err, &st) && st.Code == 404 && k.c.Bool("ignore-not-found") {
		return nil
	}
	return err
}

// print prints objects as they are.
func (k *kube) print(items []object, single bool, output, template string) error {
	if items == nil {
		items = []object{}
	}
	var doc any = object{"apiVersion": "v1", "kind": "List", "metadata": map[string]any{"resourceVersion": ""}, "items": items}
	if single {
		doc = items[0]
	}
	switch output {
	case "array":
		return k.u.json(items)
	case "name":
		for _, o := range items {
			x, err := k.registry.Find(o.str("apiVersion"), o.str("kind"))
			if err != nil {
				return err
			}
			fmt.Fprintln(k.u.out, ref{x, o.str("metadata", "name")})
		}
		return nil
	case "json":
		text, err := json.MarshalIndent(doc, "", "    ")
		if err == nil {
			_, err = fmt.Fprintf(k.u.out, "%s\n", text)
		}
		return err
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	if output == "yaml" {
		if text, err = api.YAML(text); err == nil {
			_, err = k.u.out.Write(text)
		}
		return err
	}
	var plain any
	if err := json.Unmarshal(text, &plain); err != nil {
		return err
	}
	out, err := view.JSONPath(template, plain)
	if err == nil {
		_, err = fmt.Fprint(k.u.out, out)
	}
	return err
}

// rowMeta reads the metadata that comes with a row.
func rowMeta(row *metav1.TableRow) (string, map[string]string) {
	var o struct{ Metadata metav1.ObjectMeta }
	json.Unmarshal(row.Object.Raw, &o)
	return o.Metadata.Namespace, o.Metadata.Labels
}

func (k *kube) rows(x *api.Kind) *view.Rows {
	var labels []string
	for _, l := range k.c.StringSlice("label-columns") {
		labels = append(labels, strings.Split(l, ",")...)
	}
	return &view.Rows{
		W: k.u.out, Wide: k.c.String("output") == "wide", NoHeaders: k.c.Bool("no-headers"), Labels: k.c.Bool("show-labels"), Namespace: k.namespace == "" && x.Namespaced,
		Label: labels,
	}
}

// tables prints a table for each kind, sorted if there is something to sort by.
func (k *kube) tables(refs []ref, by *view.Path) error {
	several := slices.ContainsFunc(refs, func(r ref) bool { return r.kind != refs[0].kind })
	var kinds []*api.Kind
	tables := map[*api.Kind]*metav1.Table{}
	q, whole := k.chosen(), url.Values{}
	if by != nil {
		q.Set("includeObject", "Object")
		whole.Set("includeObject", "Object")
	}
	err := k.forEach(refs, func(r ref) error {
		path := withQuery(collection(r.kind, k.namespace), q)
		if r.name != "" {
			path = withQuery(k.path(r), whole)
		}
		var t metav1.Table
		if err := k.api.Into(k.ctx, client.Request{Method: "GET", Path: path, Accept: client.AsTable}, &t); err != nil {
			return k.notFound(err)
		}
		if have := tables[r.kind]; have != nil {
			have.Rows = append(have.Rows, t.Rows...)
		} else {
			kinds, tables[r.kind] = append(kinds, r.kind), &t
		}
		return nil
	})
	shown := 0
	for _, x := range kinds {
		t := tables[x]
		if len(t.Rows) == 0 {
			continue
		}
		if by != nil {
			if err := sortRows(*by, t.Rows); err != nil {
				return err
			}
		}
		if shown++; shown > 1 {
			fmt.Fprintln(k.u.out)
		}
		rows := k.rows(x)
		if several {
			rows.Prefix = resourceName(x) + "/"
		}
		if err := rows.Print(t, rowMeta); err != nil {
			return err
		}
	}
	if shown == 0 && err == nil && !k.c.Bool("ignore-not-found") {
		k.nothing(refs[0].kind)
	}
	return err
}

func sortRows(by view.Path, rows []metav1.TableRow) error {
	err := view.SortBy(by, rows, func(row metav1.TableRow) any {
		var doc any
		json.Unmarshal(row.Object.Raw, &doc)
		return doc
	})
	if err != nil {
		return fmt.Errorf("--sort-by: %w", err)
	}
	return nil
}

func (k *kube) nothing(x *api.Kind) {
	where := ""
	if k.namespace != "" && x.Namespaced {
		where = " in " + k.namespace + " namespace"
	}
	fmt.Fprintf(k.u.err, "No resources found%s\n", where)
}

func (k *kube) watchTable(r ref) error {
	q := k.chosen()
	if r.name != "" {
		q.Set("fieldSelector", "metadata.name="+r.name)
	}
	var t metav1.Table
	if err := k.api.Into(k.ctx, client.Request{Method: "GET", Path: withQuery(collection(r.kind, k.namespace), q), Accept: client.AsTable}, &t); err != nil {
		return err
	}
	rows := k.rows(r.kind)
	if len(t.Rows) > 0 {
		if err := rows.Print(&t, rowMeta); err != nil {
			return err
		}
	}
	q.Set("watch", "true")
	q.Set("resourceVersion", t.ResourceVersion)
	err := k.api.Watch(k.ctx, withQuery(collection(r.kind, k.namespace), q), client.AsTable, func(e client.Event) (bool, error) {
		var t metav1.Table
		if err := json.Unmarshal(e.Object, &t); err != nil {
			return false, err
		}
		return false, rows.Print(&t, rowMeta)
	})
	if k.ctx.Err() != nil {
		return nil // the user has seen enough
	}
	return err
}

func kubeAPIResources(u *ui) *cli.Command {
	return kubeAction(u, &cli.Command{Name: "api-resources", Usage: "list the kinds of objects"}, 0, 0, func(k *kube) error {
		lines := [][]string{{"NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"}}
		for _, x := range k.registry.Kinds() {
			lines = append(lines, []string{x.Resource, strings.Join(x.Short, ","), x.GroupVersion().String(), fmt.Sprint(x.Namespaced), x.Kind})
		}
		return (&view.Rows{W: u.out}).Lines(lines...)
	})
}
