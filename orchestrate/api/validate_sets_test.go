package api

import (
	"strings"
	"testing"
)

func TestValidate_Sets(t *testing.T) {
	const (
		pod   = "template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c, image: i, volumeMounts: [{name: data, mountPath: /d}]}]}}"
		claim = "volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]"
		sts   = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: s, namespace: n}\nspec:\n  selector: {matchLabels: {app: db}}\n  serviceName: db\n  " + pod + "\n  " + claim + "\n"
		ds    = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: s, namespace: n}\nspec:\n  selector: {matchLabels: {app: db}}\n  template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c, image: i}]}}\n"
		work  = "template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}"
		job   = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j, namespace: n}\nspec:\n  " + work + "\n"
		cron  = "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: j, namespace: n}\nspec:\n  schedule: '0 3 * * *'\n  jobTemplate: {spec: {" + work + "}}\n"
		pvc   = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: c, namespace: n}\nspec:\n  accessModes: [ReadWriteOnce]\n  resources: {requests: {storage: 1Gi}}\n"
	)
	for _, tt := range []struct{ base, from, to, want string }{
		{sts, "", "", ""},
		{sts, "serviceName", "updateStrategy: {type: Sideways}\n  serviceName", "spec.updateStrategy.type: Unsupported value"},
		{sts, "serviceName", "updateStrategy: {rollingUpdate: {partition: -1}}\n  serviceName", "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1"},
		{sts, "serviceName", "updateStrategy: {rollingUpdate: {maxUnavailable: 0}}\n  serviceName", "maxUnavailable: Invalid value: \"0\": cannot be 0"},
		{sts, "serviceName", "updateStrategy: {rollingUpdate: {maxUnavailable: 50%}}\n  serviceName", ""},
		{sts, "serviceName", "podManagementPolicy: Sometimes\n  serviceName", "spec.podManagementPolicy: Unsupported value"},
		{sts, "serviceName", "persistentVolumeClaimRetentionPolicy: {whenScaled: Burn}\n  serviceName", "whenScaled: Unsupported value"},
		{sts, "serviceName", "ordinals: {start: -1}\n  serviceName", "spec.ordinals.start: Invalid value"},
		{sts, "storage: 1Gi", "storage: 0", "must be greater than zero"},
		{sts, "name: data}, spec", "name: other}, spec", "volumeMounts[0].name: Not found: \"data\""},
		{ds, "", "", ""},
		{ds, "selector", "updateStrategy: {rollingUpdate: {maxSurge: 1}}\n  selector", "may not be set when maxUnavailable is non-zero"},
		{ds, "selector", "updateStrategy: {rollingUpdate: {maxUnavailable: 0}}\n  selector", "cannot be 0 when maxSurge is 0"},
		{ds, "selector", "updateStrategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}\n  selector", ""},
		{job, "", "", ""},
		{job, "template", "completionMode: Indexed\n  template", ""}, // one is the default
		{job, "template", "completionMode: Indexed\n  parallelism: 2\n  template", "spec.completions: Required value: when completion mode is Indexed"},
		{job, "template", "backoffLimitPerIndex: 1\n  template", "spec.backoffLimitPerIndex: Invalid value"},
		{job, "template", "successPolicy: {rules: [{succeededCount: 1}]}\n  template", "requires indexed completion mode"},
		{job, "template", "completionMode: Indexed\n  completions: 3\n  successPolicy: {rules: [{succeededIndexes: '2-1'}]}\n  template", "succeededIndexes: Invalid value"},
		{job, "template", "podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [0]}}]}\n  template", "must not be 0 for the In operator"},
		{job, "template", "podFailurePolicy: {rules: [{action: FailIndex, onExitCodes: {operator: In, values: [3]}}]}\n  template", "requires the backoffLimitPerIndex to be set"},
		{job, "template", "podFailurePolicy: {rules: [{action: Ignore}]}\n  template", "specifying one of OnExitCodes and OnPodConditions is required"},
		{job, "template", "podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}\n  template", ""},
		{job, "template", "podReplacementPolicy: Never\n  template", "spec.podReplacementPolicy: Unsupported value"},
		{job, "template", "maxFailedIndexes: 1\n  template", "spec.backoffLimitPerIndex: Required value"},
		{cron, "", "", ""},
		{cron, "0 3 * * *", "0 25 * * *", "spec.schedule: Invalid value"},
		{cron, "0 3 * * *", "TZ=UTC 0 3 * * *", "use timeZone field instead"},
		{cron, "schedule", "timeZone: Europe/Atlantis\n  schedule", "spec.timeZone: Invalid value"},
		{cron, "schedule", "timeZone: Europe/Berlin\n  schedule", ""},
		{cron, "schedule", "startingDeadlineSeconds: -1\n  schedule", "spec.startingDeadlineSeconds: Invalid value"},
		{pvc, "", "", ""},
		{pvc, "accessModes: [ReadWriteOnce]", "accessModes: []", "at least 1 access mode is required"},
		{pvc, "ReadWriteOnce", "WriteNever", "spec.accessModes[0]: Unsupported value"},
		{pvc, "{requests: {storage: 1Gi}}", "{}", "spec.resources[storage]: Required value"},
	} {
		changed := strings.Replace(tt.base, tt.from, tt.to, 1)
		if changed == tt.base && tt.to != "" {
			t.Fatalf("%q is not in the text", tt.from)
		}
		o := one(t, changed)
		Default(o.Object)
		err := Validate(o.Kind, o.Object, nil)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.to, err, tt.want)
		}
	}
}
