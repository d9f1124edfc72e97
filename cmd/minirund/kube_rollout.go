package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/minirun/minirun/orchestrate/view"
	"github.com/urfave/cli/v2"
)

func kubeRollout(u *ui) *cli.Command {
	sub := func(name, usage string, action func(*kube, ref) error, flags ...cli.Flag) *cli.Command {
		return kubeAction(u, &cli.Command{Name: name, Usage: usage, ArgsUsage: "KIND NAME... | KIND/NAME...", Flags: append(flags, namespaceFlag())}, 1, -1, func(k *kube) error {
			all, err := k.refs(k.c.Args().Slice())
			if err != nil {
				return err
			}
			if all, err = k.expand(all, nil); err != nil {
				return err
			}
			return k.forEach(all, func(r ref) error { return action(k, r) })
		})
	}
	return &cli.Command{
		Name: "rollout", Usage: "follow, pause and take back changes of workloads", HideHelpCommand: true, OnUsageError: onUsageError,
		Subcommands: []*cli.Command{
			sub("history", "list revisions", (*kube).history, &cli.Int64Flag{Name: "revision", Usage: "print the template of revision `N`"}),
			sub("pause", "stop a rollout where it is", func(k *kube, r ref) error { return k.pause(r, true) }),
			sub("restart", "replace all pods", (*kube).restart),
			sub("resume", "let a paused rollout go on", func(k *kube, r ref) error { return k.pause(r, false) }),
			sub("status", "wait until a rollout is complete", (*kube).rolloutStatus, timeoutFlag(0), &cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Value: true, Usage: "wait; without it, print how far it is"}),
			sub("undo", "go back to a revision", (*kube).undo, dryRunFlag(), &cli.Int64Flag{Name: "to-revision", Usage: "the revision `N` (default: the one before)"}),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return unknownCommand(c, "kube rollout ")
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

func (k *kube) needs(r ref, kinds ...string) error {
	if slices.Contains(kinds, r.kind.Name()) {
		return nil
	}
	return fmt.Errorf("%s: this is for %s alone", r, strings.Join(kinds, ", "))
}

const strategic = "strategic-merge-patch+json"

func (k *kube) pause(r ref, paused bool) error {
	if err := k.needs(r, "deployments.apps"); err != nil {
		return err
	}
	var d appsv1.Deployment
	if err := k.api.Get(k.ctx, k.path(r), &d); err != nil {
		return err
	}
	what := map[bool]string{true: "paused", false: "resumed"}[paused]
	if d.Spec.Paused == paused {
		return fmt.Errorf("%s is already %s", r, map[bool]string{true: "paused", false: "running"}[paused])
	}
	body := fmt.Sprintf(`{"spec":{"paused":%t}}`, paused)
	if err := k.patch(r, strategic, []byte(body), k.changing(), nil); err != nil {
		return err
	}
	k.did(r, what)
	return nil
}

func (k *kube) restart(r ref) error {
	if err := k.needs(r, "deployments.apps", "daemonsets.apps", "statefulsets.apps"); err != nil {
		return err
	}
	if r.kind.Kind == "Deployment" {
		var d appsv1.Deployment
		if err := k.api.Get(k.ctx, k.path(r), &d); err != nil {
			return err
		}
		if d.Spec.Paused {
			return fmt.Errorf("%s is paused: resume it first", r)
		}
	}
	// With fractions, so that two restarts within a second are two.
	body := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":%q}}}}}`, time.Now().Format(time.RFC3339Nano))
	if err := k.patch(r, strategic, []byte(body), k.changing(), nil); err != nil {
		return err
	}
	k.did(r, "restarted")
	return nil
}

// rolloutProgress says how far a rollout is.
func rolloutProgress(r ref, text []byte) (message string, done bool, err error) {
	switch r.kind.Kind {
	case "Deployment":
		var d appsv1.Deployment
		if err := json.Unmarshal(text, &d); err != nil {
			return "", false, err
		}
		return deploymentProgress(&d)
	case "DaemonSet":
		var d appsv1.DaemonSet
		if err := json.Unmarshal(text, &d); err != nil {
			return "", false, err
		}
		s := &d.Status
		switch {
		case d.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType:
			return "", true, fmt.Errorf("rollout status is only available for %s strategy type", appsv1.RollingUpdateDaemonSetStrategyType)
		case d.Generation > s.ObservedGeneration:
			return "Waiting for daemon set spec update to be observed...", false, nil
		case s.UpdatedNumberScheduled < s.DesiredNumberScheduled:
			return fmt.Sprintf("Waiting for daemon set %q rollout to finish: %d out of %d new pods have been updated...", d.Name, s.UpdatedNumberScheduled, s.DesiredNumberScheduled), false, nil
		case s.NumberAvailable < s.DesiredNumberScheduled:
			return fmt.Sprintf("Waiting for daemon set %q rollout to finish: %d of %d updated pods are available...", d.Name, s.NumberAvailable, s.DesiredNumberScheduled), false, nil
		}
		return fmt.Sprintf("daemon set %q successfully rolled out", d.Name), true, nil
	case "StatefulSet":
		var d appsv1.StatefulSet
		if err := json.Unmarshal(text, &d); err != nil {
			return "", false, err
		}
		return statefulProgress(&d)
	}
	return "", false, fmt.Errorf("%s: this is for deployments, daemonsets and statefulsets", r)
}

func deploymentProgress(d *appsv1.Deployment) (string, bool, error) {
	s, want := &d.Status, int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	if d.Generation > s.ObservedGeneration {
		return "Waiting for deployment spec update to be observed...", false, nil
	}
	for _, c := range s.Conditions {
		if c.Type == appsv1.DeploymentProgressing && c.Reason == "ProgressDeadlineExceeded" {
			return "", false, fmt.Errorf("deployment %q exceeded its progress deadline", d.Name)
		}
	}
	waiting := fmt.Sprintf("Waiting for deployment %q rollout to finish: ", d.Name)
	switch {
	case s.UpdatedReplicas < want:
		return waiting + fmt.Sprintf("%d out of %d new replicas have been updated...", s.UpdatedReplicas, want), false, nil
	case s.Replicas > s.UpdatedReplicas:
		return waiting + fmt.Sprintf("%d old replicas are pending termination...", s.Replicas-s.UpdatedReplicas), false, nil
	case s.AvailableReplicas < s.UpdatedReplicas:
		return waiting + fmt.Sprintf("%d of %d updated replicas are available...", s.AvailableReplicas, s.UpdatedReplicas), false, nil
	}
	return fmt.Sprintf("deployment %q successfully rolled out", d.Name), true, nil
}

func statefulProgress(d *appsv1.StatefulSet) (string, bool, error) {
	s, want := &d.Status, int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	switch {
	case d.Spec.UpdateStrategy.Type != appsv1.RollingUpdateStatefulSetStrategyType:
		return "", true, fmt.Errorf("rollout status is only available for %s strategy type", appsv1.RollingUpdateStatefulSetStrategyType)
	case s.ObservedGeneration == 0 || d.Generation > s.ObservedGeneration:
		return "Waiting for statefulset spec update to be observed...", false, nil
	case s.ReadyReplicas < want:
		return fmt.Sprintf("Waiting for %d pods to be ready...", want-s.ReadyReplicas), false, nil
	}
	if ru := d.Spec.UpdateStrategy.RollingUpdate; ru != nil && ru.Partition != nil && *ru.Partition > 0 {
		if news := want - *ru.Partition; s.UpdatedReplicas < news {
			return fmt.Sprintf("Waiting for partitioned roll out to finish: %d out of %d new pods have been updated...", s.UpdatedReplicas, news), false, nil
		}
		return fmt.Sprintf("partitioned roll out complete: %d new pods have been updated...", s.UpdatedReplicas), true, nil
	}
	if s.UpdateRevision != s.CurrentRevision {
		return fmt.Sprintf("waiting for statefulset rolling update to complete %d pods at revision %s...", s.UpdatedReplicas, s.UpdateRevision), false, nil
	}
	return fmt.Sprintf("statefulset rolling update complete %d pods at revision %s...", s.CurrentReplicas, s.CurrentRevision), true, nil
}

func (k *kube) rolloutStatus(r ref) error {
	ctx, cancel := k.timeout()
	defer cancel()
	last := ""
	err := k.until(ctx, r, func(o object) (bool, error) {
		if o == nil {
			return false, &fileError{r.String(), fs.ErrNotExist}
		}
		text, err := json.Marshal(o)
		if err != nil {
			return false, err
		}
		message, done, err := rolloutProgress(r, text)
		if err == nil && message != last {
			fmt.Fprintln(k.u.out, message)
			last = message
		}
		return done || !k.c.Bool("watch"), err
	})
	if errors.Is(err, errTimeout) {
		return fmt.Errorf("rollout of %s: %w", r, err)
	}
	return err
}

// revision is one that there is of a workload.
type revision struct {
	number   int64
	cause    string
	template *corev1.PodTemplateSpec
	patch    json.RawMessage // of a ControllerRevision
}

const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	causeAnnotation    = "kubernetes.io/change-cause"
)

// revisions lists those of a workload, oldest first, and the workload itself.
func (k *kube) revisions(r ref) (object, []revision, error) {
	if err := k.needs(r, "deployments.apps", "daemonsets.apps", "statefulsets.apps"); err != nil {
		return nil, nil, err
	}
	var o object
	if err := k.api.Get(k.ctx, k.path(r), &o); err != nil {
		return nil, nil, err
	}
	uid := o.str("metadata", "uid")
	owned := func(list []metav1.OwnerReference) bool {
		return slices.ContainsFunc(list, func(x metav1.OwnerReference) bool { return string(x.UID) == uid })
	}
	var out []revision
	if r.kind.Kind == "Deployment" {
		sets, err := listAs[appsv1.ReplicaSet](k, "replicasets", k.namespace, nil)
		if err != nil {
			return nil, nil, err
		}
		for i := range sets {
			s := &sets[i]
			n, err := strconv.ParseInt(s.Annotations[revisionAnnotation], 10, 64)
			if !owned(s.OwnerReferences) || err != nil {
				continue
			}
			t := s.Spec.Template.DeepCopy()
			delete(t.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
			out = append(out, revision{number: n, cause: s.Annotations[causeAnnotation], template: t})
		}
	} else {
		all, err := listAs[appsv1.ControllerRevision](k, "controllerrevisions", k.namespace, nil)
		if err != nil {
			return nil, nil, err
		}
		for i := range all {
			c := &all[i]
			if !owned(c.OwnerReferences) {
				continue
			}
			var data struct {
				Spec struct{ Template *corev1.PodTemplateSpec }
			}
			if err := json.Unmarshal(c.Data.Raw, &data); err != nil {
				return nil, nil, err
			}
			out = append(out, revision{number: c.Revision, cause: c.Annotations[causeAnnotation], template: data.Spec.Template, patch: c.Data.Raw})
		}
	}
	slices.SortFunc(out, func(a, b revision) int { return cmp.Compare(a.number, b.number) })
	return o, out, nil
}

func (k *kube) history(r ref) error {
	_, all, err := k.revisions(r)
	if err != nil {
		return err
	}
	if n := k.c.Int64("revision"); n > 0 {
		i := slices.IndexFunc(all, func(v revision) bool { return v.number == n })
		if i < 0 {
			return fmt.Errorf("%s has no revision %d", r, n)
		}
		fmt.Fprintf(k.u.out, "%s with revision #%d\n%s", r, n, view.Template(all[i].template))
		return nil
	}
	fmt.Fprintln(k.u.out, r)
	lines := [][]string{{"REVISION", "CHANGE-CAUSE"}}
	for _, v := range all {
		cause := view.Clean(v.cause)
		if cause == "" {
			cause = "<none>"
		}
		lines = append(lines, []string{strconv.FormatInt(v.number, 10), cause})
	}
	return (&view.Rows{W: k.u.out}).Lines(lines...)
}

func (k *kube) undo(r ref) error {
	o, all, err := k.revisions(r)
	if err != nil {
		return err
	}
	if o.at("spec", "paused") == true {
		return fmt.Errorf("%s is paused: resume it first", r)
	}
	if len(all) == 0 {
		return fmt.Errorf("%s has no history", r)
	}
	var to revision
	switch n := k.c.Int64("to-revision"); {
	case n < 0:
		return k.usage("--to-revision must not be negative")
	case n > 0:
		i := slices.IndexFunc(all, func(v revision) bool { return v.number == n })
		if i < 0 {
			return fmt.Errorf("%s has no revision %d", r, n)
		}
		to = all[i]
	case len(all) < 2:
		return fmt.Errorf("%s has no revision before this one", r)
	default:
		to = all[len(all)-2]
	}
	body := []byte(to.patch)
	kind := strategic
	if to.patch == nil {
		// The whole template is replaced, with its labels.
		kind = "json-patch+json"
		want, err := json.Marshal(to.template)
		if err != nil {
			return err
		}
		have, err := json.Marshal(o.at("spec", "template"))
		if err != nil {
			return err
		}
		var t corev1.PodTemplateSpec
		if err := json.Unmarshal(have, &t); err != nil {
			return err
		}
		if have, err = json.Marshal(t); err != nil {
			return err
		}
		if string(have) == string(want) {
			fmt.Fprintf(k.u.out, "%s skipped rollback (current template already matches revision %d)\n", r, to.number)
			return nil
		}
		body = fmt.Appendf(nil, `[{"op":"replace","path":"/spec/template","value":%s}]`, want)
	}
	if err := k.patch(r, kind, body, k.changing(), nil); err != nil {
		return err
	}
	k.did(r, "rolled back")
	return nil
}

func kubeScale(u *ui) *cli.Command {
	return kubeAction(u, &cli.Command{
		Name: "scale", Usage: "set how many pods a workload has", ArgsUsage: "KIND NAME... | KIND/NAME...",
		Flags: []cli.Flag{
			namespaceFlag(), dryRunFlag(), selectorFlag(), outputFlag("`FORMAT` is name"),
			&cli.IntFlag{Name: "replicas", Value: -1, Usage: "`N` pods"},
			&cli.IntFlag{Name: "current-replicas", Value: -1, Usage: "only if there are `N` now"},
		},
	}, 1, -1, func(k *kube) error {
		n := k.c.Int("replicas")
		if n < 0 {
			return k.usage("--replicas must be given, and not negative")
		}
		all, err := k.refs(k.c.Args().Slice())
		if err != nil {
			return err
		}
		if all, err = k.expand(all, k.chosen()); err != nil {
			return err
		}
		return k.forEach(all, func(r ref) error {
			if !r.kind.Scale {
				return fmt.Errorf("%s cannot be scaled", r)
			}
			if have := k.c.Int("current-replicas"); have >= 0 {
				var s object
				if err := k.api.Get(k.ctx, k.path(r, "scale"), &s); err != nil {
					return err
				}
				if now := s.num("spec", "replicas"); now != int64(have) {
					return fmt.Errorf("%s has %d replicas, not %d", r, now, have)
				}
			}
			if err := k.patch(r, "merge-patch+json", fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n), k.changing(), nil, "scale"); err != nil {
				return err
			}
			k.did(r, "scaled")
			return nil
		})
	})
}

func kubeSet(u *ui) *cli.Command {
	return &cli.Command{
		Name: "set", Usage: "change the image of containers", HideHelpCommand: true, OnUsageError: onUsageError,
		Subcommands: []*cli.Command{kubeAction(u, &cli.Command{
			Name: "image", Usage: "change the image of containers; * is all of them", ArgsUsage: "KIND/NAME | KIND NAME  CONTAINER=IMAGE...",
			Flags: []cli.Flag{namespaceFlag(), dryRunFlag(), outputFlag("`FORMAT` is name")},
		}, 2, -1, (*kube).setImage)},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return unknownCommand(c, "kube set ")
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

// templatePath is where an object's pod is described.
func templatePath(kind string) []string {
	switch kind {
	case "Pod":
		return []string{"spec"}
	case "CronJob":
		return []string{"spec", "jobTemplate", "spec", "template", "spec"}
	}
	return []string{"spec", "template", "spec"}
}

func (k *kube) setImage() error {
	var words []string
	images := map[string]string{}
	for _, a := range k.c.Args().Slice() {
		if name, image, ok := strings.Cut(a, "="); ok {
			if name == "" || image == "" {
				return k.usage("%q: want CONTAINER=IMAGE", a)
			}
			images[name] = image
		} else {
			words = append(words, a)
		}
	}
	all, err := k.refs(words)
	if err != nil {
		return err
	}
	if len(images) == 0 {
		return k.usage("say which image: CONTAINER=IMAGE")
	}
	if all, err = k.expand(all, nil); err != nil {
		return err
	}
	return k.forEach(all, func(r ref) error {
		var o object
		if err := k.api.Get(k.ctx, k.path(r), &o); err != nil {
			return err
		}
		spec := object{}
		path := templatePath(r.kind.Kind)
		used := map[string]bool{}
		for _, list := range []string{"containers", "initContainers"} {
			items, _ := o.at(append(slices.Clone(path), list)...).([]any)
			var change []any
			for _, c := range items {
				m, _ := c.(map[string]any)
				name, _ := m["name"].(string)
				image, ok := images[name]
				if !ok {
					image, ok = images["*"]
					used["*"] = used["*"] || ok
				}
				used[name] = true
				if ok {
					change = append(change, object{"name": name, "image": image})
				}
			}
			if change != nil {
				spec[list] = change
			}
		}
		for name := range images {
			if !used[name] {
				return fmt.Errorf("%s has no container %q", r, name)
			}
		}
		var body any = spec
		for i := len(path) - 1; i >= 0; i-- {
			body = object{path[i]: body}
		}
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		var now object
		if err := k.patch(r, strategic, text, k.changing(), &now); err != nil {
			return err
		}
		if now.str("metadata", "resourceVersion") != o.str("metadata", "resourceVersion") || k.c.Bool("dry-run") {
			k.did(r, "image updated")
		}
		return nil
	})
}
