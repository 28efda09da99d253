{{/* Names and labels */}}
{{- define "probe-exporter.name" -}}
{{ .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "probe-exporter.fullname" -}}
{{- $name := include "probe-exporter.name" . -}}
{{- $release := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{ .Values.fullnameOverride | default $release | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "probe-exporter.namespace" -}}
{{ .Values.namespaceOverride | default .Release.Namespace }}
{{- end }}

{{- define "probe-exporter.selectorLabels" -}}
app.kubernetes.io/name: {{ include "probe-exporter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "probe-exporter.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
{{ include "probe-exporter.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- if .Values.releaseLabel }}
release: {{ .Release.Name }}
{{- end }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* name and namespace of an object, with an optional suffix: (dict "root" $ "suffix" "x" "labels" (dict)) */}}
{{- define "probe-exporter.metadata" -}}
name: {{ include "probe-exporter.fullname" .root }}{{ with .suffix }}-{{ . }}{{ end }}
namespace: {{ .namespace | default (include "probe-exporter.namespace" .root) }}
labels:
  {{- include "probe-exporter.labels" .root | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "probe-exporter.serviceAccountName" -}}
{{ .Values.serviceAccount.name | default (ternary (include "probe-exporter.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "probe-exporter.image" -}}
{{- with .Values.global.imageRegistry | default .Values.image.registry }}{{ . }}/{{ end -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* host:port under which Prometheus reaches the Service */}}
{{- define "probe-exporter.address" -}}
{{ include "probe-exporter.fullname" . }}.{{ include "probe-exporter.namespace" . }}.svc:{{ .Values.service.port }}
{{- end }}

{{- define "probe-exporter.kubeVersion" -}}
{{ .Values.kubeVersionOverride | default .Capabilities.KubeVersion.Version }}
{{- end }}

{{/* `auto` counts the cores of the node if there is no CPU limit. Then the CPUs that are requested count, rounded up. */}}
{{- define "probe-exporter.workers" -}}
{{- $cpu := dig "requests" "cpu" "1" (.Values.resources | default dict) | toString -}}
{{- if or (ne (toString .Values.workers) "auto") (dig "limits" "cpu" "" (.Values.resources | default dict)) -}}
{{ .Values.workers }}
{{- else if hasSuffix "m" $cpu -}}
{{ max 1 (divf (trimSuffix "m" $cpu | float64) 1000 | ceil | int) }}
{{- else -}}
{{ max 1 (ceil (float64 $cpu) | int) }}
{{- end -}}
{{- end }}

{{/* Text with templates, or data */}}
{{- define "probe-exporter.expanded" -}}
{{ tpl (kindIs "string" .value | ternary .value (toYaml .value)) .root }}
{{- end }}

{{- define "probe-exporter.hasConfig" -}}
{{- if or .Values.config .Values.configExistingSecretName }}yes{{ end -}}
{{- end }}

{{/* The label by which the mixin's rules tell modules apart. With several modules the exporter sets it itself. */}}
{{- define "probe-exporter.moduleLabel" -}}
{{- if not (contains "," .) -}}
- targetLabel: module
  replacement: {{ . }}
{{- end -}}
{{- end }}
