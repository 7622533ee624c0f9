# SPDX-License-Identifier: Apache-2.0
# Every command of the project. CI calls these and nothing else.
.DEFAULT_GOAL := help
